"""What a verb would ask for and write, said without starting or writing anything."""
