from hdtalk.cli import main

main()
