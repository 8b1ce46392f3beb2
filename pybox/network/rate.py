"""Traffic limits: a token bucket on each end of a container's pair of interfaces, by pyroute2. tc-tbf(8)"""

from __future__ import annotations

_LATENCY = 0.05  # seconds that a packet may wait before it is dropped


def limit(outside: str, inside: str, netns: int, rate: int) -> None:
    """Limit what goes into and comes out of a container to ``rate`` bits a second. Raises OSError.

    Bytes that may go at once: those of 10 ms, and of a few packets at least, which are up to 64 KB here (GSO).
    """
    from pyroute2 import IPRoute

    burst = max(rate // 8 // 100, 128 * 1024)
    for name, place in ((outside, None), (inside, f"/proc/self/fd/{netns}")):
        with IPRoute(netns=place) as route:
            index = route.link_lookup(ifname=name)[0]
            # numbers, for what pyroute2 makes of "10mbit" depends on its version
            route.tc("add", "tbf", index=index, rate=rate // 8, burst=burst, latency=_LATENCY)
