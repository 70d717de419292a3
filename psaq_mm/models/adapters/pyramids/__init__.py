"""Adapters of pyramids, whose queries attend to fewer keys and values than there are queries."""
