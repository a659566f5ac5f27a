"""Studies: what to do, as YAML or Python; planned, run, resumed, and what they show."""
