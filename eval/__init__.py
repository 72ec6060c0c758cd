"""Evaluation through VLMEvalKit."""
