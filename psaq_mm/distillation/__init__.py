"""The teacher-student cycle in plain torch."""
