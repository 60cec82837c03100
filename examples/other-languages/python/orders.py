"""Takes an order, and has its event sent, in one transaction."""

import json
import os
import sys

import psycopg


def take_order(connection, number, customer, traceparent=None):
    headers = {"tenant": "acme", "customer": customer}
    if traceparent:
        headers["traceparent"] = traceparent
    payload = json.dumps({"order": number, "customer": customer}, ensure_ascii=False)
    connection.execute("INSERT INTO orders (id, customer) VALUES (%s, %s)", (number, customer))
    connection.execute(
        """
        INSERT INTO outbox_message (topic, key, payload, content_type, headers)
        VALUES (%s, %s, %s, %s, %s)
        """,
        ("order.paid", f"order-{number}", payload.encode(), "application/json", json.dumps(headers)),
    )


def main():
    traceparent = os.environ.get("TRACEPARENT")
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, customer text NOT NULL)")

    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        # Leaving the block commits: the order and its event, or neither.
        with connection.transaction():
            take_order(connection, 17, "Zoë 🦀", traceparent)

        try:
            with connection.transaction():
                take_order(connection, 18, "Nobody")
                raise ValueError("the card was refused")
        except ValueError as error:
            print(f"order 18 is rolled back, and its event with it: {error}", file=sys.stderr)


main()
