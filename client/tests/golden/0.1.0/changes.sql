update product set name = 'Armchair', amount = 13 where id = 1;
update product set deleted = true where id = 4;
delete from product where id = 5;
insert into product (id, name) values (7, 'Stool');
update price set product = 3 where product = 2;
