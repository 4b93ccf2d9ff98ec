-- The example of docker-compose.yml: a table, and the role that the server connects with.
-- Postgres runs this once, when its volume is new.

create table product (
    id integer generated always as identity primary key,
    name text not null,
    price numeric(10, 2) not null
);

insert into product (name, price) values ('Chair', 45.00), ('Table', 180.50), ('Lamp', 29.90);

-- The server only reads.
create role highwater_server login password 'highwater' in role pg_read_all_data;
