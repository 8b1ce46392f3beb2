"""Many jobs: run_many, the Executor, batch files. job.py is what a job is, many.py runs them, budget.py admits them."""
