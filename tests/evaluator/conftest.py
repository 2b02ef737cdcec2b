"""Fixtures live in a module of their own name, because every folder of tests may have a conftest."""

from evaluator_fixtures import data_folder, labels_folder, model_folder, own_cache, processor_folder, write_lines

__all__ = ["data_folder", "labels_folder", "model_folder", "own_cache", "processor_folder", "write_lines"]
