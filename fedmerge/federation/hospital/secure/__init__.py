"""A hospital in a masked round: keys of its peers, shares of secrets, and a ledger against asking twice."""
