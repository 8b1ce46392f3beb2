"""The twelve lessons, one module each. course.py has their order."""
