"""Images: references, the content-addressed store, the safe unpacker, archives in and out.

Reading order: reference.py (names), store.py (what `pybox run` reads), layer.py (a tar becomes a directory), changes.py (the
only writer of the store), archive.py (load), importing.py (import), export.py (save).
"""
