"""Measuring a student against its teacher: fidelity, task scores, retention, cost."""
