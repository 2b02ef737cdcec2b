"""Makes vision labels: datasets -> words -> patches -> Parquet shards."""

import logging

# Beam without its GCP extra warns about BigQuery, on the root logger, when it is imported; nobody here can act on it.
logging.getLogger().addFilter(lambda record: "apitools not found" not in str(record.msg))
