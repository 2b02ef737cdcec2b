"""Words that others found: the files of OCR engines, one module per format."""
