"""What a campaign costs on a machine, measured: short runs of every step, kept and scaled."""
