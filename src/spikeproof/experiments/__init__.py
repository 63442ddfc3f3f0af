"""Studies: specifications, content-addressed cells, and the machines that compute them."""
