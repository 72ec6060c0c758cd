"""Rendered pages with questions, their tokenizer and vision tower, and the files that hold them."""
