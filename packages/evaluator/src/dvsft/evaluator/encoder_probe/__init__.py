"""What a vision encoder knows, by probes on its frozen features (arXiv 2510.16333, section 3 of its appendix for the
recipes). Not to be confused with `dvsft.evaluator.probe`, which proves where visual tokens look."""
