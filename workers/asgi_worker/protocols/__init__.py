"""One module a protocol; what they share (exchange, response, forwarded) is written once."""
