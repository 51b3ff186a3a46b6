"""What an attack author writes, the loop that gradient attacks share, and the judge of every verdict."""
