"""fasttrack in other people's trainers: a file each, none of which is imported unasked."""
