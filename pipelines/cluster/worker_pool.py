"""Beam's worker pool for Python, on one address of this machine and with the pipeline's options in its workers.

    python pipelines/cluster/worker_pool.py 127.0.0.1:50000

A TaskManager asks the pool for a worker process (environment EXTERNAL). Beam's own `worker_pool_main` listens on every
address, without authentication, and runs whatever it is sent; and its workers never see the pipeline's options, which
s3:// needs for its credentials and endpoint. This one listens where it is told to. In a worker it does what the boot
program of Beam's container image does: ask for the options, then become the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import dvsft.labeler  # noqa: F401 # isort: skip # first, because it keeps Beam's import quiet
import grpc
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf import json_format, text_format


def serve(address: str) -> None:
    """Start a worker process whenever one is asked for, until this process is killed."""
    from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

    class Pool(BeamFnExternalWorkerPoolServicer):
        def StartWorker(
            self, request: beam_fn_api_pb2.StartWorkerRequest, context: grpc.ServicerContext
        ) -> beam_fn_api_pb2.StartWorkerResponse:
            endpoints = [request.logging_endpoint.url, request.provision_endpoint.url, request.control_endpoint.url]
            command = [sys.executable, __file__, "--worker", request.worker_id, *endpoints]
            self._worker_processes[request.worker_id] = subprocess.Popen(command)
            return beam_fn_api_pb2.StartWorkerResponse()

    server = grpc.server(ThreadPoolExecutor())
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(Pool(use_process=True), server)
    server.add_insecure_port(address)
    server.start()
    print(f"waiting for TaskManagers at {address}", flush=True)
    server.wait_for_termination()


def work(worker_id: str, logging: str, provision: str, control: str) -> None:
    """Be the worker `worker_id` of the runner behind these endpoints, until it hangs up."""
    with grpc.insecure_channel(provision) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = stub.GetProvisionInfo(request, metadata=[("worker_id", worker_id)]).info
    os.environ["WORKER_ID"] = worker_id  # before the import below reads it
    os.environ["PIPELINE_OPTIONS"] = json.dumps(json_format.MessageToDict(info.pipeline_options))
    for name, url in {"LOGGING": logging, "CONTROL": control}.items():
        descriptor = endpoints_pb2.ApiServiceDescriptor(url=url)
        os.environ[f"{name}_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(descriptor)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", nargs="?", default="127.0.0.1:50000", help="where to listen, host:port")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
    else:
        serve(options.address)
