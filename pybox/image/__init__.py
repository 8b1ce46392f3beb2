"""Images: references, the content-addressed store, the safe unpacker, archives in and out.

Reading order: reference.py (names), store.py (what `pybox run` reads), layer.py (a tar becomes a directory), changes.py (the
only writer of the store), manifest.py and bringing.py (what archives and registries share), archive.py (load), importing.py
(import), export.py (save), stack.py (which layer a file comes from).
"""
