"""Learning from another network's answers: `san train DATA --teacher FILE`."""
