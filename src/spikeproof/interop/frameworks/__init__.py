"""Networks of other frameworks as models of ours: their state, their time axis, their surrogates."""
