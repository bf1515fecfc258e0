"""What a campaign will take: time, nodes, memory and disk, from a calibration."""
