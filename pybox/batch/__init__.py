"""Batch files: jobs from a table, with needs, results on disk and a report. reading.py reads, plan.py checks, going.py runs."""
