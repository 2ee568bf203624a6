"""The numbered series: its notebooks, their parameters, and the folder that a run of one leaves."""
