"""`san parity`: will a deployed model rank people as the trained network did, and if not, where does it differ?"""
