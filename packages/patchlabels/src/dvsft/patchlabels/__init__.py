"""What a vision label is: the patch grid (`grid`), the Parquet row (`rows`), the upright image (`image`)."""
