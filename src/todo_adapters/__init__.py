"""What the ports of the domain are made of: one package for each technology."""
