"""Experimental images: reading them, looking at them, and proposing a campaign's imaging."""
