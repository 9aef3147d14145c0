"""Word problems and competition mathematics: GSM8K and MATH."""
