// Takes an order, and has its event sent, in one transaction.
import pg from "pg";

async function takeOrder(client, number, customer, traceparent) {
    const headers = { tenant: "acme", customer };
    if (traceparent) headers.traceparent = traceparent;
    const payload = JSON.stringify({ order: number, customer });
    await client.query("INSERT INTO orders (id, customer) VALUES ($1, $2)", [number, customer]);
    await client.query(
        `INSERT INTO outbox_message (topic, key, payload, content_type, headers)
         VALUES ($1, $2, $3, $4, $5)`,
        ["order.paid", `order-${number}`, Buffer.from(payload), "application/json", JSON.stringify(headers)],
    );
}

// All in it is committed, or nothing is. It takes one client for that: each query of a pool may go another way.
async function inTransaction(client, work) {
    await client.query("BEGIN");
    try {
        await work();
        await client.query("COMMIT");
    } catch (error) {
        await client.query("ROLLBACK");
        throw error;
    }
}

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
await client.query("CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, customer text NOT NULL)");

await inTransaction(client, () => takeOrder(client, 17, "Zoë 🦀", process.env.TRACEPARENT));

try {
    await inTransaction(client, async () => {
        await takeOrder(client, 18, "Nobody");
        throw new Error("the card was refused");
    });
} catch (error) {
    console.error(`order 18 is rolled back, and its event with it: ${error.message}`);
}
await client.end();
