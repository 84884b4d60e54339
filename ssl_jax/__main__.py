from ssl_jax.cli import main

main()
