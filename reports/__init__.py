"""Tables, figures, verdicts and the report: pure functions of recorded results."""
