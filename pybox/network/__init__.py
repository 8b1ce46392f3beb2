"""The network: bridges, addresses, ports, names, and what may be reached. Nothing here is imported for --network none or host.

netspec.py (beside spec.py)   what may be asked for
networks.py                   which networks there are, and a bridge for each
pool.py                       who has which address and port: symlinks, so claiming one is one atomic system call
rtnl.py                       interfaces, addresses, routes: messages to the kernel, rtnetlink(7)
members.py                    who may say what on a bridge: nobody speaks for another
firewall.py, nft.py           address translation, ports, allow-lists: nftables, each change one transaction
names.py                      the hosts files that containers find each other by
pasta.py                      for plain users, who can't make interfaces on the host
"""
