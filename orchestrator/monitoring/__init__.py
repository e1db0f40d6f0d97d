"""What a run tells Prometheus while it goes on: the list of metrics, what they are read from, and who hears of them."""
