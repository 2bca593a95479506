"""Harm on purpose: kills, full disks, flipped bits, interrupts and damaged files, all seeded."""
