"""Private inference as processes: what a party and its client say to each other, and the party itself."""
