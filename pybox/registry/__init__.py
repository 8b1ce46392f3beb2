"""Registries: images over the network, by the OCI distribution protocol (which is docker's).

Reading order: address.py (which server a name means), wire.py (HTTP: proxies, TLS, redirects, retries), client.py (what a
registry can be asked), secrets.py (who we are there), pull.py and push.py (the stories). Nothing of it is imported by a run
whose image is present.
"""
