"""The sections of a campaign file: what is sampled, how it is imaged, labelled and stored."""
