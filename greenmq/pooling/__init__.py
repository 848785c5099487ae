"""What pools are made of: leases, aging, statistics, background work, and a set for each native thread."""
