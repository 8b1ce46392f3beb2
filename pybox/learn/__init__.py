"""`pybox learn`: twelve lessons that the kernel grades, and `pybox quiz`, whose questions come from real plans. (facts: teaching.md 4)

    lesson       Lesson: text, prediction, task, hint, solution, mutants, and the check; Handed: an answer as it was handed in
    lab          where an answer is run: a container that stands still afterwards and is looked at from outside
    lessons      one module per lesson, in the order of the course
    grading      answers of many people: what is right, in a table
    export       the course as a directory for a teacher
    quiz         questions by seed, with answers computed from plans and ids

An answer is data that a stranger wrote. It is run in a container or not at all, and a check believes what /proc, mountinfo and
cgroupfs show of that container, never what the answer prints.
"""
