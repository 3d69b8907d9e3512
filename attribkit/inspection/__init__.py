"""What a student is taught to look at in a network: its filters, its feature maps, how far it sees, its gates."""
