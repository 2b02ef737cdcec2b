"""What Google Dataflow would be asked for. Nothing is sent: the translation is all that can be tested without an
account."""

from typing import Any

import pytest
from support import SAMPLES

from dvsft.labeler.commands import label
from dvsft.labeler.config import load
from dvsft.labeler.runs.folder import prepare
from dvsft.labeler.stages import LabelShards

IMAGE = "europe-docker.pkg.dev/project/images/dvsft-labeler:1"


@pytest.fixture
def translate(write_config, tmp_path):
    """The Dataflow job of a run with these Beam options."""
    import apache_beam as beam

    def job(*flags: str, pages_per_shard: int = 256):
        config = write_config("squad", SAMPLES / "squad", output={"pages_per_shard": pages_per_shard})
        run = prepare(load(config), str(tmp_path / f"out-{pages_per_shard}"))
        cloud = ["--project=project", "--region=europe-west4", "--temp_location=gs://bucket/tmp", "--dry_run=True"]
        options = label.beam_options(["--runner=DataflowRunner", *cloud, *flags])
        pipeline = beam.Pipeline(options=options)
        label.build(pipeline, run, LabelShards(run, threads=1))
        result: Any = pipeline.run()  # of the Dataflow runner
        return result.job

    return job


def test_dataflow_is_asked_for_our_image_and_the_memory_and_gpu_of_the_options(translate):
    gpu = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
    hints = ["--resource_hint=min_ram=4GB", f"--resource_hint=accelerator={gpu}"]
    job = translate(f"--sdk_container_image={IMAGE}", *hints)
    (environment,) = {found.SerializeToString(): found for found in environments(job)}.values()
    assert IMAGE.encode() in environment.payload
    assert environment.resource_hints == {
        "beam:resources:min_ram_bytes:v1": b"4000000000",
        "beam:resources:accelerator:v1": gpu.encode(),
    }


def environments(job):
    """The environments that the transforms of a job run in."""
    components = job.proto_pipeline.components
    used = {transform.environment_id for transform in components.transforms.values()}
    return [components.environments[name] for name in used if name]


def test_the_job_is_as_large_for_forty_shards_as_for_one(translate):
    """It holds names of sources; those of shards are made by the workers, and pages never travel. A shard that the job
    listed would cost 250 bytes. What the bound leaves is for Beam's code, pickled under random names and compressed:
    two jobs of the same run differ by up to 90 bytes."""
    one, forty = (translate(pages_per_shard=size).proto_pipeline.ByteSize() for size in (40, 1))
    assert abs(forty - one) < 39 * 25
