package main

import (
	"io"

	"github.com/urfave/cli/v2"
)

// manCommand prints the manual page, made from the options.
func manCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page, for 'walferry man > /usr/local/share/man/man1/walferry.1'", Hidden: true,
		Action: func(c *cli.Context) error {
			page, err := c.App.ToManWithSection(1)
			if err == nil {
				_, err = io.WriteString(ui.stdout, page)
			}
			return writeErr(err)
		},
	}
}
