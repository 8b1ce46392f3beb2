"""What looks at a plan and at a launch, instead of only making them: lessons, shell lines, times, the gate, error codes.

All of it reads the plan that `run` walks. Nothing here is imported by a run that nobody looks at.
"""
