"""Every registration method, with what it is made of: networks, similarities, priors."""
