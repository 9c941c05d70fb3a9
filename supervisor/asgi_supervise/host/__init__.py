"""What acts: the only code that forks, kills, reaps, binds, reads clocks. It does not judge."""
