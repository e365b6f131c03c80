"""How tracklets are joined to people: what can be one person, and which are."""
