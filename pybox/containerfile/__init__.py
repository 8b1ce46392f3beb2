"""Images from a Containerfile: `pybox build`.

reading    a text becomes instructions, each with its line         words      quotes, variables, `[...]`
checking   what makes no sense or is not supported is told before anything runs
stages     which of the stages are needed, and what FROM names     ignore     .dockerignore
settings   what an instruction makes of an image's configuration
sources    which files COPY and ADD mean, and a digest of them     landing    where they come to lie: one more layer
running    RUN: a container, and what it left behind as a layer
cache      what was made before from the same things
building   the story
"""
