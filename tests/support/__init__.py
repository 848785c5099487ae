"""Tools of the suite: guard, switches, census, proxy, servers. Each is tested in tests/unit/support."""
